-- Layout check, the script's instant, events and counters. First in every script.
local LAYOUT = '1'
local GROUP = 'workers'
-- The daemon trims long before; this holds when none runs, and when none archives. The epoch of an archived partition has its own.
local EVENTS_CAP = 50000
-- What an archive plants in keys, to know them again (docs/protocol.md "Archive").
local SENTINEL = '{archive}'

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local now_text = string.format('%.0f', now)

local epoch_fields = redis.call('HMGET', K.epoch, 'layout', 'state', 'archive_id', 'events_cap')
local state, archived_by = epoch_fields[2] or 'absent', epoch_fields[3] or ''
-- Data were lost: nothing runs, moves or fires until that is mended.
local frozen = state ~= 'ok' and state ~= 'absent'
if epoch_fields[1] and epoch_fields[1] ~= LAYOUT then
  return redis.error_reply('RECLAIMD_LAYOUT this dataset has layout ' .. epoch_fields[1] .. ', the program ' .. LAYOUT)
end

local function refusal_of_state()
  return redis.error_reply('RECLAIMD_STATE queue ' .. string.match(K.epoch, '([^:]*):[^:]*:epoch$') .. ' is ' .. state)
end

local function begin_epoch(id)
  redis.call('HSET', K.epoch, 'id', id, 'archive_id', '', 'state', 'ok', 'layout', LAYOUT)
  state = 'ok'
end

-- Redis judges a script at maxmemory by its first write only: one that cannot grow memory lets the rest go on.
local function allow_at_maxmemory()
  redis.call('HDEL', K.clock, '')
end

local batch = {}

local function event(kind, fields)
  fields.type = kind
  fields.v = 1
  batch[#batch + 1] = fields
  return fields
end

-- An event of many rows, each written as JSON text already: a table for each would cost more than all the rest of it.
local function event_of_rows(kind, fields, rows, column)
  fields.type = kind
  fields.v = 1
  local head = cjson.encode(fields)
  batch[#batch + 1] = { rows = rows, head = string.sub(head, 1, -2) .. ',"' .. (column or 'tasks') .. '":[' }
end

-- What a part of the script has gathered over the whole call and tells at its end.
local endings = {}

local function write_events()
  for _, finish in ipairs(endings) do
    finish()
  end
  if #batch > 0 then
    local text = {}
    for _, e in ipairs(batch) do
      text[#text + 1] = #text == 0 and '[' or ','
      if e.head then
        text[#text + 1] = e.head
        text[#text + 1] = table.concat(e.rows, ',')
        text[#text + 1] = ']}'
      else
        text[#text + 1] = cjson.encode(e)
      end
    end
    text[#text + 1] = ']'
    redis.call('XADD', K.events, 'MAXLEN', '~', tonumber(epoch_fields[4]) or EVENTS_CAP, '*', 'at', now_text, 'e', table.concat(text))
    batch = {}
  end
end

local function count(name, n)
  if n > 0 then
    redis.call('HINCRBY', K.counters, name, n)
  end
end

local function ring()
  if redis.call('LLEN', K.bell) == 0 then
    redis.call('LPUSH', K.bell, '1')
  end
end
