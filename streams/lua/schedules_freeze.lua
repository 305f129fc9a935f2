-- schedules_freeze: the log of schedules has lost something: nothing fires until it is whole again.
-- KEYS: epoch events snapshots
-- USES: ids schedules
-- ARGV: now, archive ID, mark as the caller has seen it (empty: none), rebuild ID, lost | rebuilding, the archive's position
-- Reply: ok, position of the archive that these data remember (or empty), done or empty | foreign | changed
-- Cost: O(1). Events that come from now on have IDs above the archive's position, whatever the clock says.
if is_foreign(ARGV[2]) then
  return { 'foreign' }
end
local again = epoch.rebuild == ARGV[4]
if not again and epoch.mark ~= ARGV[3] then
  return { 'changed' }
end
if again and state == 'ok' then
  return { 'ok', epoch.position, 'done' }
end
redis.call('XLEN', K.events)
allow_full()
local to = again and state == 'rebuilding' and state or ARGV[5]
redis.call('HSET', K.epoch, 'layout', LAYOUT, 'archive_id', ARGV[2], 'state', to, 'rebuild', ARGV[4])
if ARGV[6] ~= '0-0' then
  -- Refused when the log has come further already.
  local added = redis.pcall('XADD', K.events, ARGV[6], 'e', '')
  if type(added) == 'string' then
    redis.call('XDEL', K.events, added)
  end
end
return { 'ok', epoch.position, '' }
