-- finish: the partition is open again. Right after `freeze` it means: take Redis as it is. Sentinels are not touched: what was
-- deleted since `freeze` planted them is found missing by the next look, and rebuilt anew.
-- KEYS: epoch clock counters events bell dead delayed bodies fired queued unique control accepted streams
-- USES: sentinel
-- ARGV: now, rebuild_id (and after a space its nonce), cursor as it is, mark, most entries of :events
-- Reply: ok | moved (it stands elsewhere, or is not the one that runs); cursor, state
-- Cost: O(1)
local known = redis.call('HMGET', K.epoch, 'rebuild', 'cursor', 'nonce')
local ours = known[1] and (ARGV[2] == known[1] or ARGV[2] == known[1] .. ' ' .. (known[3] or ''))
local cursor = ours and known[2] or ''
if ours and state == 'ok' then
  return { 'ok', cursor, state }
end
if not ours or state ~= 'rebuilding' or cursor ~= ARGV[3] then
  return { 'moved', cursor, state }
end
check_guarded_types()
redis.call('LLEN', K.bell)
allow_at_maxmemory()
redis.call('HSET', K.epoch, 'mark', ARGV[4], 'mark_before', '', 'events_cap', ARGV[5], 'state', 'ok')
redis.call('HDEL', K.epoch, 'fence', 'lost')
redis.call('UNLINK', K.accepted)
ring()
return { 'ok', cursor, 'ok' }
