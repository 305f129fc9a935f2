-- The one mover of the dead. Whoever has dead workers to deal with continues the pass that is running, or begins one with
-- those that are fenced by then (at most 64, since each call looks at all of them): so nobody's entries come between those of a pass, whichever scripts take part in it.
local PASS_WORKERS = 64

local function pass_members()
  local members = redis.call('ZRANGEBYSCORE', K.leases, -1, -1)
  if #members == 0 then
    members = redis.call('ZRANGEBYSCORE', K.leases, 0, 0, 'LIMIT', 0, PASS_WORKERS)
    for _, worker in ipairs(members) do
      redis.call('ZADD', K.leases, -1, worker)
    end
  end
  return members
end

-- Moves up to `limit` entries of the pass. Returns how many, whether it stopped before the end of the pass, and how many
-- workers the pass has.
local function run_pass(limit)
  if frozen then
    return 0, true, 0
  end
  local dead = {}
  for _, worker in ipairs(pass_members()) do
    local row = row_of(worker)
    if row and row.state == 'fenced' then
      dead[#dead + 1] = draining(worker, row)
    else
      redis.call('ZREM', K.leases, worker)
    end
  end
  local moved, stopped = drain(dead, limit)
  return moved, stopped, #dead
end

-- The same until `worker` has nothing left to be moved; returns the moved, and whether more calls are needed for that.
local function run_pass_for(worker, limit)
  local moved, stopped, total = 0, false, 0
  while not stopped do
    local score = tonumber(redis.call('ZSCORE', K.leases, worker))
    -- A score above 0 without a live row is what a partial loss of data leaves: no pass takes that worker.
    if not score or score > 0 then
      break
    end
    moved, stopped = run_pass(limit - total)
    total = total + moved
  end
  return total, stopped
end
