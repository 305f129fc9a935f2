-- turn: the hot path of a worker. Check the token, renew, settle, audit, read: one round trip for a whole batch.
-- KEYS: epoch clock counters events bell unique dead workers leases turns control delayed bodies fired queued streams
-- USES: clock worker ids envelope occurrence move settle
-- ARGV: now, worker, token, want, 1 if a suspect may be read, settlements JSON, running JSON for an audit or empty,
--       number of the turn, growing within an incarnation, or empty
-- Reply: ok lease_now entries handed_back lost stale paused | fenced | late | state <state>
--        entries: list of [stream index, entry_id, fields]; lost: running entries that are not pending any more
-- Cost: O(settlements + entries read); an audit also reads what is pending to this worker
local AUDIT_PAGE = 1000
local worker, token, want, number_of_turn = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[8])
local buried = 0
local settlements = ARGV[6] ~= '' and cjson.decode(ARGV[6]) or {}

local function refuse()
  if #settlements > 0 then
    local rows = {}
    for i, s in ipairs(settlements) do
      rows[i] = { s[4] }
    end
    count('fenced', #rows)
    event('SettlementsRefused', { worker = worker, token = token, entries = rows })
    write_events()
  end
  return { 'fenced' }
end

-- Hands back what is pending to this worker but not running there: a reply was lost, or a turn arrived late.
local function audit(running)
  local is_running, rows, lost, handed_back = {}, {}, {}, 0
  for _, r in ipairs(running) do
    is_running[r[1] .. ' ' .. r[2]] = true
  end
  for i, stream in ipairs(K.streams) do
    local from = '-'
    repeat
      local page = redis.pcall('XPENDING', stream, GROUP, from, '+', AUDIT_PAGE, worker)
      page = page.err and {} or page
      for _, p in ipairs(page) do
        local key = i .. ' ' .. p[1]
        if is_running[key] then
          is_running[key] = nil
        elseif move_one(i, p[1], 'audit', worker, rows) then
          handed_back = handed_back + 1
        end
        from = '(' .. p[1]
      end
    until #page < AUDIT_PAGE
  end
  write_acknowledged()
  for _, r in ipairs(running) do
    if is_running[r[1] .. ' ' .. r[2]] then
      lost[#lost + 1] = r
    end
  end
  if #rows > 0 then
    event_of_rows('Moved', { cause = 'audit', worker = worker, late_ms = 0 }, rows)
    ring()
  end
  count('handed_back', handed_back)
  return handed_back, lost
end

local function read(stream, n)
  local command = { 'XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', n, 'STREAMS', stream, '>' }
  local got = redis.pcall(unpack(command))
  if got and got.err then
    -- The stream or its group has vanished. Only unsettled entries can be there, so the group begins at 0.
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    got = redis.call(unpack(command))
  end
  return got and got[1][2] or {}
end

local function deliver(entries, started, i, n)
  local taken = 0
  for _, entry in ipairs(read(K.streams[i], n)) do
    local id, f = entry[1], entry[2]
    if is_well_formed(f) then
      entries[#entries + 1] = { i, id, f }
      started[#started + 1] = string.format('["%s",%.0f,"%s"]', f[2], math.max(0, now - f[4]), id)
      taken = taken + 1
    else
      bury_foreign(i, id, f, worker)
      buried = buried + 1
    end
  end
  return taken
end

local function holds_suspect()
  local pending = redis.pcall('XPENDING', K.streams[SUSPECT], GROUP, '-', '+', 1, worker)
  return not pending.err and #pending > 0
end

local function take()
  local entries, started = {}, {}
  local left = want
  if left > 0 and ARGV[5] == '1' and not holds_suspect() then
    left = left - deliver(entries, started, SUSPECT, 1)
  end
  for i = SUSPECT + 1, #K.streams do
    if left > 0 then
      left = left - deliver(entries, started, i, left)
    end
  end
  write_acknowledged()
  if #started > 0 then
    count('started', #started)
    event_of_rows('Started', { worker = worker, token = token }, started)
  end
  -- More may be there: it got all that it asked for, or what it got was no work.
  if left == 0 or buried > 0 then
    ring()
  end
  return entries
end

allow_at_maxmemory()
local current, row = is_current(worker, token)
if not current then
  return refuse()
end
if state ~= 'ok' then
  return { 'state', state }
end
-- A turn that was overtaken by a later one: its sender has given it up. Its audit would hand back what runs by now, and what
-- it reads nobody would start.
if number_of_turn then
  if number_of_turn <= (tonumber(redis.call('HGET', K.turns, worker)) or 0) then
    return { 'late' }
  end
  redis.call('HSET', K.turns, worker, ARGV[8])
end
tick()
renew(worker, row)
local stale = settle_all(settlements, worker, token)
local handed_back, lost = 0, {}
if ARGV[7] ~= '' then
  handed_back, lost = audit(cjson.decode(ARGV[7]))
end
local paused = redis.call('HGET', K.control, 'paused') == '1'
local entries = {}
if want > 0 and not paused then
  entries = take()
end
write_events()
return { 'ok', lease_now, entries, handed_back, lost, stale, paused and 1 or 0 }
