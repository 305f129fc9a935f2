-- Entries by ID, read ahead: what died together was mostly delivered together, so the next ID asked for is mostly the next in
-- the stream. Where it is not (orphans scattered among what lives), one entry is read at a time.
local LONGEST_AHEAD = 32
local BIG_BODY = 4096

-- rows: what was read of K.streams[index] in one go, `at` the next of them; skipped: how many nobody asked for.
local index_ahead, rows, at, size, skipped = 0, {}, 1, 1, 0

local function has_big_body(row)
  return row and #row[2][#row[2]] > BIG_BODY
end

local function read_ahead(index, id)
  local n = #rows
  if index_ahead == index and at > n and skipped * 2 <= n and not has_big_body(rows[n]) then
    size = math.min(size * 2, LONGEST_AHEAD)
  else
    size = 1
  end
  rows = redis.call('XRANGE', K.streams[index], id, '+', 'COUNT', size)
  index_ahead, at, skipped = index, 1, 0
end

-- The fields of an entry, or nil when it does not exist.
local function fields_of(index, id)
  local row = index_ahead == index and rows[at]
  if not row or row[1] ~= id then
    while row and id_before(row[1], id) do
      at, skipped = at + 1, skipped + 1
      row = rows[at]
    end
    if not row or row[1] ~= id then
      read_ahead(index, id)
      row = rows[1]
      if not row or row[1] ~= id then
        return nil
      end
    end
  end
  at = at + 1
  return row[2]
end
