-- What the scripts of the log of schedules share: the fields of its `:epoch`, and the groups that prove its keys to be old.
local ARCHIVE_GROUP = 'archive'

local FIELDS = { 'archive_id', 'mark', 'mark_before', 'rebuild', 'position', 'restored', 'gap', 'fence' }
local epoch = {}
for i, value in ipairs(redis.call('HMGET', K.epoch, unpack(FIELDS))) do
  epoch[FIELDS[i]] = value or ''
end

local function is_foreign(archive_id)
  return epoch.archive_id ~= '' and epoch.archive_id ~= archive_id
end

-- Redis judges a script at maxmemory by its first write only: one that cannot grow memory lets the rest go on.
local function allow_full()
  redis.call('HDEL', K.epoch, '')
end

local function has_sentinel(key)
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  if groups.err then
    return false
  end
  for _, group in ipairs(groups) do
    if group[2] == ARCHIVE_GROUP then
      return true
    end
  end
  return false
end

-- A key that was deleted and made anew by traffic has no such group. Another type is an error before anything else is written.
local function plant()
  redis.call('XLEN', K.events)
  redis.call('XLEN', K.snapshots)
  for _, key in ipairs({ K.events, K.snapshots }) do
    if not has_sentinel(key) then
      redis.call('XGROUP', 'CREATE', key, ARCHIVE_GROUP, '$', 'MKSTREAM')
    end
  end
end

local function same_or_before(a, b)
  return a == b or id_before(a, b)
end
