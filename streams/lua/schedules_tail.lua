-- schedules_tail: what the archive must know of the log of schedules, and what came after its position; marks that it was read.
-- KEYS: epoch events snapshots
-- USES: ids schedules
-- ARGV: now, archive ID, the committed mark, the next one (empty: mark nothing), the committed position, most events, about how many bytes,
--       fence: as in tail
-- Reply: ok or no, state (or absent), archive_id, mark, mark_before, rebuild, missing keys by name, gap,
--        and if ok: now, events each [ID, fields], whether there are more
-- Cost: O(events read)
local missing = {}
for name, key in pairs({ events = K.events, snapshots = K.snapshots }) do
  if not has_sentinel(key) then
    missing[#missing + 1] = name
  end
end
local facts = { state, epoch.archive_id, epoch.mark, epoch.mark_before, epoch.rebuild, missing, epoch.gap }
local agreed = ARGV[3] ~= '' and (epoch.mark == ARGV[3] or epoch.mark_before == ARGV[3])
local slept = ARGV[4] ~= '' and tonumber(ARGV[8]) < (tonumber(epoch.fence) or 0)
if slept or state ~= 'ok' or epoch.archive_id ~= ARGV[2] or not agreed or #missing > 0 or epoch.gap ~= '' then
  return { 'no', facts }
end

local position, most, bytes = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local read, from, more = {}, '(' .. position, false
while true do
  local page = redis.call('XRANGE', K.events, from, '+', 'COUNT', math.min(100, most - #read + 1))
  for i, entry in ipairs(page) do
    if #read >= most or bytes <= 0 then
      more = true
      break
    end
    for _, field in ipairs(entry[2]) do
      bytes = bytes - #field
    end
    read[#read + 1] = entry
    from = '(' .. entry[1]
  end
  if more or #page == 0 then
    break
  end
end

if #read > 0 and ARGV[4] ~= '' then
  allow_full()
  redis.call('HSET', K.epoch, 'mark', ARGV[4], 'mark_before', ARGV[3], 'position', position, 'fence', ARGV[8])
elseif epoch.position ~= position then
  allow_full()
  redis.call('HSET', K.epoch, 'position', position)
end
return { 'ok', facts, now, read, more and 1 or 0 }
