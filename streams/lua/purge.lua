-- purge: delete dead letters for good.
-- KEYS: epoch clock counters events bell dead
-- ARGV: now, entry IDs in :dead
-- Reply: how many were there
-- Error RECLAIMD_STATE, and nothing done, while the partition's data are being mended.
-- Cost: O(IDs)
if frozen then
  return refusal_of_state()
end
allow_at_maxmemory()
local rows = {}
for i = 2, #ARGV do
  local got = redis.call('XRANGE', K.dead, ARGV[i], ARGV[i])
  if #got > 0 then
    -- Redis completes an ID without a sequence number; only the entry's own one deletes it.
    local id, f = got[1][1], got[1][2]
    rows[#rows + 1] = { f[2], id }
    redis.call('XDEL', K.dead, id)
  end
end
if #rows > 0 then
  count('purged', #rows)
  event('Purged', { tasks = rows })
end
write_events()
return #rows
