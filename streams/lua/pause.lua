-- pause: pause a queue (nothing is delivered, everything else goes on) or resume it.
-- KEYS: epoch clock counters events bell control
-- ARGV: now, 1 to pause, 0 to resume
-- Reply: 1 if that changed anything
-- Cost: O(1)
allow_at_maxmemory()
if ARGV[2] == '1' then
  if redis.call('HSETNX', K.control, 'paused', '1') == 0 then
    return 0
  end
  event('QueuePaused', {})
else
  if redis.call('HDEL', K.control, 'paused') == 0 then
    return 0
  end
  event('QueueResumed', {})
  ring()
end
write_events()
return 1
