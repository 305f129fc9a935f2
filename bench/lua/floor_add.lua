-- The floor under a bulk enqueue. KEYS: stream; ARGV: count, body
for i = 1, ARGV[1] do
  redis.call('XADD', KEYS[1], '*', 'task', '0123456789abcdef01234567' .. i, 'at', '1750000000000', 'lane', 'normal', 'max', '5', 'body', ARGV[2])
end
