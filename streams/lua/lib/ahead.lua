-- Entries by ID, read ahead: what died together was mostly delivered together, so the next ID asked for is mostly the next in
-- the stream. Where it is not (orphans scattered among what lives), one entry is read at a time.
local LONGEST_AHEAD = 32
local BIG_BODY = 4096

-- As Redis orders IDs. Those of this century have 13 digits of milliseconds, and then text compares like numbers.
local function id_before(a, b)
  if string.byte(a, 14) == 45 and string.byte(b, 14) == 45 then
    if #a == #b then
      return a < b
    end
    local a_ms, b_ms = string.sub(a, 1, 13), string.sub(b, 1, 13)
    return a_ms < b_ms or (a_ms == b_ms and #a < #b)
  end
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_seq) < tonumber(b_seq))
end

local ahead = { index = 0, rows = {}, at = 1, size = 1, used = 0 }

local function read_ahead(index, id)
  local w = ahead
  if w.index == index and w.at > #w.rows and w.used * 2 > #w.rows then
    w.size = math.min(w.size * 2, LONGEST_AHEAD)
  else
    w.size = 1
  end
  w.rows = redis.call('XRANGE', K.streams[index], id, '+', 'COUNT', w.size)
  w.index, w.at, w.used = index, 1, 0
end

-- The fields of an entry, or nil when it does not exist.
local function fields_of(index, id)
  local w = ahead
  if w.index == index then
    while w.rows[w.at] and id_before(w.rows[w.at][1], id) do
      w.at = w.at + 1
    end
  end
  if w.index ~= index or not w.rows[w.at] or w.rows[w.at][1] ~= id then
    read_ahead(index, id)
  end
  local row = w.rows[1] and w.rows[w.at]
  if not row or row[1] ~= id then
    return nil
  end
  w.at, w.used = w.at + 1, w.used + 1
  local fields = row[2]
  if #(fields[#fields] or '') > BIG_BODY then
    w.size = 1
  end
  return fields
end
