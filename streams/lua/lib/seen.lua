-- Task IDs seen lately, in two sets by turns of five minutes of lease time, so that a re-sent enqueue is recognised for at
-- least that long. By lease time and not by EXPIRE: a clock that steps forwards must not forget.
local SEEN_BUCKET_MS = 300000

-- Returns the sets of this bucket and of the one before.
local function seen_sets()
  local bucket = math.floor(lease_now / SEEN_BUCKET_MS)
  local known = tonumber(redis.call('HGET', K.clock, 'seen'))
  local current, before = K.seen_even, K.seen_odd
  if bucket % 2 == 1 then
    current, before = before, current
  end
  if bucket ~= known then
    -- First, because at maxmemory an UNLINK would open the door to all that follows in an enqueue.
    redis.call('HSET', K.clock, 'seen', string.format('%.0f', bucket))
    -- When the clock was lost, nobody knows how old they are: too long does less harm than not long enough.
    if known then
      redis.call('UNLINK', current)
    end
    if known and bucket ~= known + 1 then
      redis.call('UNLINK', before)
    end
  end
  return current, before
end
