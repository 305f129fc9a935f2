-- adopt: an archive begins to archive this partition, or takes what it archives anew from its begin.
-- KEYS: epoch clock counters events bell dead delayed bodies fired queued unique control streams
-- USES: sentinel
-- ARGV: now, archive_id, id of the epoch as it was seen (empty: there was none), id of the epoch if there is none, mark, most entries of :events,
--       mark as it was seen (empty: there was none; left out: whatever it is)
-- Reply: ok | changed (epoch or mark are not those that were seen) | foreign (another archive has it) | state; then epoch_id, state
-- Cost: O(1)
local known = redis.call('HMGET', K.epoch, 'id', 'archive_id', 'mark')
local id = state ~= 'absent' and known[1] or ''
local owner = state ~= 'absent' and known[2] or ''
local mark = known[3] or ''
-- Who slept while another daemon adopted it must not write a mark that this one then takes for older data.
if id ~= ARGV[3] or (ARGV[7] and mark ~= ARGV[7] and mark ~= ARGV[5]) then
  return { 'changed', id, state }
end
if owner ~= '' and owner ~= ARGV[2] then
  return { 'foreign', id, state }
end
if frozen then
  return { 'state', id, state }
end
check_guarded_types()
allow_at_maxmemory()
if state == 'absent' then
  begin_epoch(ARGV[4])
  id = ARGV[4]
end
redis.call('HSET', K.epoch, 'archive_id', ARGV[2], 'mark', ARGV[5], 'mark_before', '', 'events_cap', ARGV[6])
redis.call('HDEL', K.epoch, 'fence')
plant_sentinels()
return { 'ok', id, state }
