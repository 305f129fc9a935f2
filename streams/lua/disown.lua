-- disown: an archive is gone for good, whatever it knew. Its data belong to none, and are open if its rebuild had frozen them.
-- KEYS: epoch accepted
-- ARGV: now, ID of that archive
-- Reply: ok (also when they belong to none already) | changed (another archive has them)
-- Cost: O(1). For the schedules of a namespace too, whose epoch has no `accepted`.
if archived_by ~= '' and archived_by ~= ARGV[2] then
  return 'changed'
end
if state ~= 'absent' and archived_by ~= '' then
  -- First, so that a full Redis lets the rest go on.
  redis.call('HDEL', K.epoch, 'cursor', 'lost')
  redis.call('HSET', K.epoch, 'archive_id', '', 'state', 'ok')
  if K.accepted then
    redis.call('UNLINK', K.accepted)
  end
end
return 'ok'
