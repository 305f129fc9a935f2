-- schedules_commit: ends a snapshot of the schedules, unless the log was restored since the fold in it was begun.
-- KEYS: epoch events snapshots
-- USES: ids schedules
-- ARGV: now, the restoration that the fold stands on (empty: none), then of the snapshot: header, chunks, rows, checksum, covers
-- Reply: ok | overtaken
-- Cost: O(1)
local whole = #redis.call('XRANGE', K.snapshots, ARGV[3], ARGV[3]) == 1
if not whole or epoch.restored ~= ARGV[2] or (state ~= 'ok' and state ~= 'absent') then
  return { 'overtaken' }
end
redis.call('XADD', K.snapshots, '*', 'kind', 'commit', 'of', ARGV[3], 'chunks', ARGV[4], 'rows', ARGV[5], 'checksum', ARGV[6], 'covers', ARGV[7])
return { 'ok' }
