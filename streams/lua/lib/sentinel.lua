-- Sentinels (docs/protocol.md "Archive"): what an archive plants in every key whose loss traffic would hide by making it anew.
local SENTINEL_GROUP = 'archive'

local guarded_streams = { { 'dead', K.dead }, { 'events', K.events } }
for i, name in ipairs(STREAM_NAMES) do
  guarded_streams[#guarded_streams + 1] = { name, K.streams[i] }
end
local guarded_hashes = {
  { 'delayed:body', K.bodies }, { 'fired', K.fired }, { 'fired:queued', K.queued }, { 'unique', K.unique },
  { 'control', K.control }, { 'counters', K.counters },
}

local function has_group(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, g in ipairs(groups.err and {} or groups) do
    if g[2] == SENTINEL_GROUP then
      return true
    end
  end
  return false
end

-- Names of the keys that have none: lost, or made by somebody since.
local function missing_sentinels()
  local missing = {}
  for _, key in ipairs(guarded_streams) do
    if not has_group(key[2]) then
      missing[#missing + 1] = key[1]
    end
  end
  for _, key in ipairs(guarded_hashes) do
    if redis.pcall('HEXISTS', key[2], SENTINEL) ~= 1 then
      missing[#missing + 1] = key[1]
    end
  end
  if type(redis.pcall('ZSCORE', K.delayed, SENTINEL)) ~= 'string' then
    missing[#missing + 1] = 'delayed'
  end
  return missing
end

-- An error here is one before the first write.
local function check_guarded_types()
  for _, key in ipairs(guarded_streams) do
    redis.call('XLEN', key[2])
  end
  for _, key in ipairs(guarded_hashes) do
    redis.call('HLEN', key[2])
  end
  redis.call('ZCARD', K.delayed)
end

-- A key of another type gets none, and is found missing.
local function plant_sentinels()
  for _, key in ipairs(guarded_streams) do
    redis.pcall('XGROUP', 'CREATE', key[2], SENTINEL_GROUP, '$', 'MKSTREAM')
  end
  for _, key in ipairs(guarded_hashes) do
    redis.pcall('HSET', key[2], SENTINEL, '.')
  end
  redis.pcall('ZADD', K.delayed, '+inf', SENTINEL)
end
