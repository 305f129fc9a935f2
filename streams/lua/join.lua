-- join: a new incarnation of a worker ID. What the old one had pending is moved, never run in place.
-- KEYS: epoch clock counters events bell unique dead workers leases turns fired queued streams
-- USES: clock worker ids envelope occurrence move drain pass unknown
-- ARGV: now, id of the epoch if there is none, worker, nonce, lease ms, evidence JSON,
--       nonces of incarnations of this ID that are proven dead, between spaces (or empty), limit, 1 if the last life was fenced by surprise
-- Reply: ok token lease_now | live holder_evidence ms_left | more (call again) | fenced (this nonce was fenced: take another)
--        state <state> (nobody begins now)
-- Cost: O(entries moved), at most limit
local worker, nonce, term, evidence, proven_dead = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local shown_evidence = cjson.decode(evidence)
if frozen then
  return { 'state', state }
end
allow_at_maxmemory()
if state == 'absent' then
  begin_epoch(ARGV[2])
end
tick()
for _, stream in ipairs(K.streams) do
  local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
    return made
  end
end

local row = row_of(worker)
if row and row.state ~= 'live' and row.nonce == nonce then
  return { 'fenced' }
end
if row and row.state == 'live' then
  local lease_end = tonumber(redis.call('ZSCORE', K.leases, worker)) or 0
  if row.nonce == nonce then
    renew(worker, row.token .. '|' .. row.term .. '|')
    return { 'ok', row.token, lease_now }
  end
  if lease_end > lease_now and not string.find(' ' .. proven_dead .. ' ', ' ' .. row.nonce .. ' ', 1, true) then
    return { 'live', row.evidence, lease_end - lease_now }
  end
  fence(worker, row, 'takeover')
  -- Now: this call may return before the new incarnation counts.
  write_cap()
end

local took_over = row and row.state == 'fenced' and row.token or ''
if took_over == '' and has_pending(worker) then
  fence_unknown(worker)
end
local _, more = run_pass_for(worker, tonumber(ARGV[8]))
if more then
  write_events()
  return { 'more' }
end

local token = string.format('%.0f-%s', math.max((row and tonumber(row.counter) or 0) + 1, now), nonce)
redis.call('HSET', K.workers, worker, token .. '|' .. term .. '|' .. evidence)
redis.call('ZADD', K.leases, string.format('%.0f', lease_now + term), worker)
-- Turns are numbered anew; a number that outlived its row would make every turn late.
redis.call('HDEL', K.turns, worker)
count_term(term, 1)
write_cap()
count('joined', 1)
if ARGV[9] == '1' then
  count('false_reclaims', 1)
end
event('WorkerJoined', { worker = worker, token = token, lease_ms = tonumber(term), evidence = shown_evidence, took_over = took_over })
write_events()
return { 'ok', token, lease_now }
