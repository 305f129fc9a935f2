-- cleanup: forget workers that are gone, and empty consumers that nobody owns.
-- KEYS: epoch clock counters events bell workers leases streams
-- ARGV: now, only rows gone for at least this many ms, 1 to change nothing
-- Reply: worker IDs forgotten, [stream, consumer] deleted
-- Cost: O(worker rows + consumers)
local older_than, dry_run = tonumber(ARGV[2]), ARGV[3] == '1'
if not dry_run then
  allow_at_maxmemory()
end
local rows, consumers = {}, {}
local all = redis.call('HGETALL', K.workers)
local known = {}
for i = 1, #all, 2 do
  local ended = string.match(all[i + 1], '^~[^|]*|(%d+)|')
  if ended and now - ended >= older_than then
    rows[#rows + 1] = all[i]
    if not dry_run then
      redis.call('HDEL', K.workers, all[i])
    end
  elseif not ended then
    known[all[i]] = true
  end
end
for i, stream in ipairs(K.streams) do
  local found = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  for _, c in ipairs(found.err and {} or found) do
    if not known[c[2]] and c[4] == 0 then
      consumers[#consumers + 1] = { STREAM_NAMES[i], c[2] }
      if not dry_run then
        redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, c[2])
      end
    end
  end
end
return { rows, consumers }
