-- freeze: data were lost. Nothing runs, moves or fires here until the rebuild that is named has finished.
-- KEYS: epoch clock counters events bell dead delayed bodies fired queued unique control accepted streams
-- USES: sentinel
-- ARGV: now, archive_id, id of the epoch and its mark as they were seen (empty: absent), id that the epoch gets, rebuild_id, lost | rebuilding
-- Reply: ok cursor (of this rebuild) nonce | changed (not as it was seen) | foreign (another archive has it)
-- Cost: O(1)
local known = redis.call('HMGET', K.epoch, 'id', 'archive_id', 'mark', 'rebuild', 'cursor', 'lost', 'nonce')
for i = 1, 7 do
  known[i] = known[i] or ''
end
local id, owner, mark, rebuild = unpack(known, 1, 4)
if owner ~= '' and owner ~= ARGV[2] then
  return { 'foreign', '', '' }
end
if frozen and rebuild == ARGV[6] and id == ARGV[5] then
  if state == 'lost' and ARGV[7] == 'rebuilding' then
    allow_at_maxmemory()
    redis.call('HSET', K.epoch, 'state', 'rebuilding')
  end
  return { 'ok', known[5], known[7] }
end
if id ~= ARGV[3] or mark ~= ARGV[4] or rebuild == ARGV[6] then
  return { 'changed', '', '' }
end
-- Older data may stem from the middle of another rebuild, in whose time the keys that it found lost had sentinels again.
local lost = missing_sentinels()
lost[#lost + 1] = frozen and known[6] or nil
-- Lost again, the same rebuild begins anew here: who knows Redis as it was before must not go on with it.
local nonce = table.concat(redis.call('TIME'), '.')
allow_at_maxmemory()
redis.call('HSET', K.epoch, 'id', ARGV[5], 'archive_id', ARGV[2], 'state', ARGV[7], 'layout', LAYOUT,
  'rebuild', ARGV[6], 'cursor', '', 'nonce', nonce, 'lost', table.concat(lost, ' '))
redis.call('UNLINK', K.accepted)
-- Now, not at the end: a key that is deleted while the rebuild runs is seen to be missing once it has finished.
plant_sentinels()
return { 'ok', '', nonce }
