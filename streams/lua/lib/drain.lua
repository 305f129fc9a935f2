-- Moves what fenced workers have pending, merged by entry ID over all of them, stream by stream in reading order.
local BYTES_A_CALL = 262144

-- A page with big bodies is followed by pages of one entry: they are all in memory at once.
local BIG_BODY = 4096

-- What one worker has pending in one stream, with the first ID known and no body read. False when nothing is pending.
local function begin(d, stream)
  d.stream, d.after, d.rows, d.at = stream, '0-0', {}, 1
  local first = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, d.worker)
  if first.err or #first == 0 then
    return false
  end
  d.id = first[1][1]
  return true
end

local function has_big_body(row)
  local f = row and row[2]
  return f and #f[#f] > BIG_BODY
end

-- A consumer that reads its own history gets IDs and bodies in one command: half the work of XPENDING and XRANGE. Each page
-- is larger than the one before, as long as bodies are small.
local function read_page(d, pages)
  pages.size = has_big_body(d.rows[#d.rows]) and 1 or math.min(pages.size * 4, pages.largest)
  d.size = pages.size
  local got = redis.call('XREADGROUP', 'GROUP', GROUP, d.worker, 'COUNT', d.size, 'STREAMS', d.stream, d.after)
  d.rows, d.at = got and got[1][2] or {}, 1
  return d.rows[1]
end

-- Fields of the entry that `d` stands at; false for a ghost.
local function fields_of(d, pages)
  local row = d.rows[d.at] or read_page(d, pages)
  return row[2]
end

-- On to the next entry. Returns false at the last.
local function advance(d, pages)
  d.after = d.id
  d.at = d.at + 1
  local row = d.rows[d.at]
  if not row then
    row = #d.rows == d.size and read_page(d, pages)
    if not row then
      return false
    end
  end
  d.id = row[1]
  return true
end

local function sift_up(heap, i)
  while i > 1 do
    local parent = math.floor(i / 2)
    if not id_before(heap[i].id, heap[parent].id) then
      return
    end
    heap[i], heap[parent] = heap[parent], heap[i]
    i = parent
  end
end

local function sift_down(heap)
  local i, n = 1, #heap
  while 2 * i <= n do
    local child = 2 * i
    if child < n and id_before(heap[child + 1].id, heap[child].id) then
      child = child + 1
    end
    if not id_before(heap[child].id, heap[i].id) then
      return
    end
    heap[i], heap[child] = heap[child], heap[i]
    i = child
  end
end

local function settle_root(heap, alive)
  if not alive then
    heap[1] = heap[#heap]
    heap[#heap] = nil
  end
  sift_down(heap)
end

-- The first ID of all workers but the root's, or nil.
local function runner_up(heap)
  local a, b = heap[2], heap[3]
  if a and b then
    return id_before(a.id, b.id) and a.id or b.id
  end
  return a and a.id
end

local function finish(d)
  for i = 1, #K.streams do
    local left = redis.pcall('XPENDING', K.streams[i], GROUP, '-', '+', 1, d.worker)
    if not left.err and #left == 0 then
      redis.call('XGROUP', 'DELCONSUMER', K.streams[i], GROUP, d.worker)
    end
  end
  redis.call('ZREM', K.leases, d.worker)
  redis.call('HDEL', K.turns, d.worker)
  redis.call('HSET', K.workers, d.worker,
    string.format('~%s|%s|%s|%s|%s', d.row.cause, now_text, d.row.token, d.row.term, d.row.evidence))
  event('WorkerGone', { worker = d.worker, token = d.row.token, cause = d.row.cause })
end

local function anything_pending(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, g in ipairs(groups.err and {} or groups) do
    if g[2] == GROUP then
      return g[6] > 0
    end
  end
  return false
end

-- dead: a list from `draining`, all fenced. Returns how many entries were moved, and whether it stopped with some left.
-- When none are left, their consumers and leases go too.
local function drain(dead, limit)
  local moved, bytes = 0, 0
  local pages = { size = 0.25, largest = math.max(8, math.ceil(limit / math.max(1, #dead) / 4)) }
  local stopped = false
  for i = 1, #K.streams do
    local heap = {}
    for _, d in ipairs(anything_pending(K.streams[i]) and dead or {}) do
      if begin(d, K.streams[i]) then
        heap[#heap + 1] = d
        sift_up(heap, #heap)
      end
    end
    -- One worker's entries up to the next one's first are a run: the heap is touched between runs only.
    while #heap > 0 and not stopped do
      if moved >= limit or bytes >= BYTES_A_CALL then
        stopped = true
      else
        local d, rival = heap[1], runner_up(heap)
        local cause, worker, rows, alive = d.row.cause, d.worker, d.moved, nil
        repeat
          local size = move(i, d.id, fields_of(d, pages), cause, worker, rows)
          moved = moved + 1
          if size then
            bytes = bytes + size
            d.count = d.count + 1
          end
          alive = advance(d, pages)
        until not alive or moved >= limit or bytes >= BYTES_A_CALL or (rival and id_before(rival, d.id))
        settle_root(heap, alive)
      end
    end
    if stopped then
      break
    end
  end
  write_acknowledged()
  for _, d in ipairs(dead) do
    if #d.moved > 0 then
      event_of_rows('Moved', { cause = d.row.cause, worker = d.worker, late_ms = math.max(0, lease_now - d.row.ended) }, d.moved)
      ring()
    end
    if WITHOUT_VERDICT[d.row.cause] then
      count('reclaimed:' .. d.row.cause, d.count)
    else
      count('handed_back', d.count)
    end
    if not stopped then
      finish(d)
    end
  end
  return moved, stopped
end

local function draining(worker, row)
  return { worker = worker, row = row, moved = {}, count = 0 }
end
