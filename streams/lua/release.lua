-- release: the parent of a worker saw it die. Fences that nonce and moves what it had pending.
-- KEYS: epoch clock counters events bell unique dead workers leases turns fired queued streams
-- USES: clock worker ids envelope occurrence move drain pass
-- ARGV: now, worker, nonce, limit, cause: released, or left when it died because it was told to stop
-- Reply: ok moved | more moved | gone (another incarnation holds the ID, or nobody) | state 0 (fenced, and nothing is moved in
--        that state of the partition)
-- Cost: O(entries moved), at most limit
allow_at_maxmemory()
tick()
local worker = ARGV[2]
local row = row_of(worker)
if not row or row.nonce ~= ARGV[3] or row.state == 'gone' then
  return { 'gone', 0 }
end
if row.state == 'live' then
  fence(worker, row, ARGV[5])
  write_cap()
end
local moved, more = run_pass_for(worker, tonumber(ARGV[4]))
write_events()
return { frozen and 'state' or more and 'more' or 'ok', moved }
