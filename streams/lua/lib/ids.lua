-- Entry IDs in the order of Redis.
local byte, sub, match = string.byte, string.sub, string.match

-- As Redis orders IDs. Those of this century have 13 digits of milliseconds, and then text compares like numbers.
local function id_before(a, b)
  if byte(a, 14) == 45 and byte(b, 14) == 45 then
    if #a == #b then
      return a < b
    end
    local a_ms, b_ms = sub(a, 1, 13), sub(b, 1, 13)
    return a_ms < b_ms or (a_ms == b_ms and #a < #b)
  end
  local a_ms, a_seq = match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = match(b, '^(%d+)%-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_seq) < tonumber(b_seq))
end
