-- Worker rows (docs/protocol.md "Worker rows"): who holds a worker ID, and fencing it.
local function parse_row(row)
  if not row then
    return nil
  end
  local mark = string.sub(row, 1, 1)
  local r = {}
  if mark == '!' or mark == '~' then
    r.state = mark == '!' and 'fenced' or 'gone'
    r.cause, r.ended, r.token, r.term, r.evidence = string.match(row, '^.([^|]*)|(%d+)|([^|]*)|(%d+)|(.*)$')
  else
    r.state = 'live'
    r.token, r.term, r.evidence = string.match(row, '^([^|]*)|(%d+)|(.*)$')
  end
  r.ended = tonumber(r.ended)
  r.counter, r.nonce = string.match(r.token, '^(%d+)-(.*)$')
  return r
end

local function row_of(worker)
  return parse_row(redis.call('HGET', K.workers, worker))
end

local function is_current(worker, token)
  local row = redis.call('HGET', K.workers, worker)
  return row and string.sub(row, 1, #token + 1) == token .. '|', row
end

local function renew(worker, row)
  local term = string.match(row, '^[^|]*|(%d+)|')
  redis.call('ZADD', K.leases, string.format('%.0f', lease_now + term), worker)
end

-- From here on nothing of this incarnation is accepted. What it has pending is moved by drain, now or in a later call.
local function fence(worker, r, cause)
  local lease_end = tonumber(redis.call('ZSCORE', K.leases, worker)) or lease_now
  r.state, r.cause, r.ended = 'fenced', cause, math.min(lease_end, lease_now)
  redis.call('HSET', K.workers, worker, string.format('!%s|%.0f|%s|%s|%s', cause, r.ended, r.token, r.term, r.evidence))
  redis.call('ZADD', K.leases, 0, worker)
  if cause ~= 'unknown' then
    count_term(r.term, -1)
  end
  count('fenced_workers:' .. cause, 1)
  event('WorkerFenced', { worker = worker, token = r.token, cause = cause, late_ms = lease_now - r.ended })
end
