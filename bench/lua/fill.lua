-- KEYS: stream; ARGV: count, prefix of the task IDs, body
for i = 1, ARGV[1] do
  redis.call('XADD', KEYS[1], '*', 'task', ARGV[2] .. '-' .. i, 'at', '1750000000000', 'lane', 'normal', 'max', '5', 'body', ARGV[3])
end
