-- schedules_adopt: an archive begins to follow the log of schedules, or follows it anew.
-- KEYS: epoch events snapshots
-- USES: ids schedules
-- ARGV: now, archive ID, mark as the caller has seen it (empty: none), the new mark, 1 to take Redis as it is whatever its state
-- Reply: ok | foreign | changed | state <state>
-- Cost: O(1)
if is_foreign(ARGV[2]) then
  return { 'foreign' }
end
if epoch.mark ~= ARGV[3] and epoch.mark ~= ARGV[4] then
  return { 'changed' }
end
if state ~= 'ok' and state ~= 'absent' and ARGV[5] ~= '1' then
  return { 'state', state }
end
allow_full()
plant()
redis.call('HDEL', K.epoch, 'gap', 'position')
redis.call('HSET', K.epoch, 'layout', LAYOUT, 'archive_id', ARGV[2], 'state', 'ok', 'mark', ARGV[4], 'mark_before', '', 'fence', '0')
return { 'ok' }
