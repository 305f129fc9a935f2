-- schedules_finish: what the archive knows takes the place of the log up to where both agree, at one instant.
-- KEYS: epoch events snapshots
-- USES: ids schedules
-- ARGV: now, archive ID, rebuild ID, the new mark, the archive's position, first ID of the log that the archive does not know,
--       then of the snapshot that was written: header, chunks, rows, checksum
-- Reply: ok | again | moved | overtaken (the snapshot is not there any more)
-- Cost: O(log) at about a microsecond for 10 events; when the server's clock had gone back, so that new events have IDs below the
--       archive's position, about 3 µs for each new event
if epoch.archive_id ~= ARGV[2] or epoch.rebuild ~= ARGV[3] then
  return { 'moved' }
end
if state == 'ok' and epoch.mark ~= '' and epoch.restored == ARGV[3] then
  return { 'again' }
end
if state ~= 'rebuilding' then
  return { 'moved' }
end
local of, position = ARGV[7], ARGV[5]
if #redis.call('XRANGE', K.snapshots, of, of) == 0 then
  return { 'overtaken' }
end
-- Of another type it would be an error in the middle.
redis.call('XLEN', K.events)
redis.call('XTRIM', K.snapshots, 'MINID', of)
redis.call('XTRIM', K.events, 'MINID', ARGV[6])

-- IDs must only grow: the generation of a schedule is one, and a lower one would never fire.
local function lift()
  local first = redis.call('XRANGE', K.events, '-', '+', 'COUNT', 1)[1]
  if not first or not same_or_before(first[1], position) then
    return
  end
  local last = redis.call('XREVRANGE', K.events, '+', '-', 'COUNT', 1)[1][1]
  while true do
    local page = redis.call('XRANGE', K.events, '-', last, 'COUNT', 500)
    if #page == 0 then
      return
    end
    for _, entry in ipairs(page) do
      redis.call('XADD', K.events, '*', unpack(entry[2]))
      redis.call('XDEL', K.events, entry[1])
    end
  end
end

lift()
redis.call('XADD', K.snapshots, '*', 'kind', 'commit', 'of', of, 'chunks', ARGV[8], 'rows', ARGV[9], 'checksum', ARGV[10], 'covers', '0-0')
plant()
redis.call('HDEL', K.epoch, 'gap')
redis.call('HSET', K.epoch, 'state', 'ok', 'mark', ARGV[4], 'mark_before', '', 'fence', '0', 'position', position, 'restored', ARGV[3])
return { 'ok' }
