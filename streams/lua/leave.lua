-- leave: a graceful end. Fences oneself, hands everything back.
-- KEYS: epoch clock counters events bell unique dead workers leases turns fired queued streams
-- USES: clock worker ids envelope occurrence move drain pass
-- ARGV: now, worker, token, limit
-- Reply: ok moved | more moved | fenced | state 0 (fenced, and nothing is moved in that state of the partition)
-- Cost: O(entries moved), at most limit
allow_at_maxmemory()
tick()
local worker, token = ARGV[2], ARGV[3]
local row = row_of(worker)
if not row or row.token ~= token then
  return { 'fenced' }
end
if row.state == 'gone' then
  return { 'ok', 0 }
end
if row.state == 'live' then
  fence(worker, row, 'left')
  write_cap()
  count('left', 1)
end
local moved, more = run_pass_for(worker, tonumber(ARGV[4]))
write_events()
return { frozen and 'state' or more and 'more' or 'ok', moved }
