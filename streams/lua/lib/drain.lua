-- Moves what fenced workers have pending, merged by entry ID over all of them, stream by stream in reading order.
local BYTES_A_CALL = 262144

-- The pending entries of one worker in one stream, a page at a time.
local function pending_of(d, stream, page)
  d.stream, d.from, d.page, d.rows, d.at = stream, '-', page, {}, 0
end

local function next_page(d)
  if d.at > 1 and d.at <= d.page then
    return false
  end
  d.rows = redis.pcall('XPENDING', d.stream, GROUP, d.from, '+', d.page, d.worker)
  d.at = 1
  if d.rows.err or #d.rows == 0 then
    return false
  end
  d.from = '(' .. d.rows[#d.rows][1]
  d.id = d.rows[1][1]
  return true
end

local function advance(d)
  local at = d.at + 1
  d.at = at
  local row = d.rows[at]
  if not row then
    return next_page(d)
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
  local page = math.max(8, math.ceil(limit / math.max(1, #dead) / 4))
  local stopped = false
  for i = 1, #K.streams do
    local heap = {}
    for _, d in ipairs(anything_pending(K.streams[i]) and dead or {}) do
      pending_of(d, K.streams[i], page)
      if advance(d) then
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
          local size = move(i, d.id, cause, worker, rows)
          moved = moved + 1
          if size then
            bytes = bytes + size
            d.count = d.count + 1
          end
          alive = advance(d)
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
