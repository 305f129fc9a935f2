-- Envelopes (docs/protocol.md "The envelope"): as stream fields, as a table, and as the JSON array that hashes keep.
local HISTORY_ROWS = 20
local SUSPECT = 1
local LANES = { high = 3, normal = 5, low = 7 }
local COUNTS = { deliveries = true, attempts = true, handbacks = true, token = true }
local OPTIONAL = { 'deliveries', 'attempts', 'handbacks', 'token', 'unique', 'schedule', 'history' }

-- Of at most 15 digits: exact in Lua, and readable for every client.
local function is_count(text)
  text = tostring(text)
  return #text <= 15 and string.find(text, '^%d+$') ~= nil
end

-- All that moving needs; whether the numbers are numbers is judged when the entry is delivered.
local function is_whole(f)
  return f[1] == 'task' and f[3] == 'at' and f[5] == 'lane' and f[7] == 'max' and f[#f - 1] == 'body' and LANES[f[6]] ~= nil
    and #f[2] <= 128 and string.find(f[2], '^[%w._:-]+$') ~= nil
end

local function is_well_formed(f)
  local good = is_whole(f) and is_count(f[4]) and is_count(f[8])
  for i = 9, good and #f - 2 or 0, 2 do
    good = good and (not COUNTS[f[i]] or is_count(f[i + 1]))
  end
  return good
end

local function envelope(f)
  local e = {}
  for i = 1, #f, 2 do
    e[f[i]] = f[i + 1]
  end
  return e
end

local function number(text)
  return tonumber(text) or 0
end

local function flat(e)
  local f = { 'task', e.task, 'at', e.at, 'lane', e.lane, 'max', e.max }
  for i = 1, #OPTIONAL do
    local value = e[OPTIONAL[i]]
    if value and value ~= 0 then
      f[#f + 1] = OPTIONAL[i]
      f[#f + 1] = value
    end
  end
  f[#f + 1] = 'body'
  f[#f + 1] = e.body
  return f
end

-- The first row names the first entry of the task, so it stays for good.
local function remember(e, row)
  if not e.history then
    e.history = row
    return
  end
  local _, rows = string.gsub(e.history, '\n', '')
  if rows + 1 >= HISTORY_ROWS then
    e.history = string.gsub(e.history, '\n[^\n]*', '', 1)
  end
  e.history = e.history .. '\n' .. row
end

-- id: the entry that ends with it.
local function history_row(what, worker, cause, id)
  return cjson.encode({ now, what, worker, cause, id })
end

-- An envelope that is kept as a JSON array, or nil when it is none: somebody else wrote it.
local function stored_envelope(text)
  local readable, e = pcall(function()
    local f = cjson.decode(text)
    return is_well_formed(f) and envelope(f)
  end)
  return readable and e or nil
end

-- Were it an error, it would keep all the others from their lanes.
local function bury_unreadable(kept_in, name, text)
  local task, reason = 'foreign:' .. kept_in .. ':' .. name, 'not an envelope of the protocol'
  local id = redis.call('XADD', K.dead, '*', 'task', task, 'cause', 'foreign', 'error', reason, 'worker', '', 'dead_at', now_text,
    'x:body', text)
  count('dead', 1)
  count('dead:foreign', 1)
  event('Died', { worker = '', tasks = { { task, id, 'foreign', reason, -1, '' } } })
end
