-- Moves an entry of a due list, unless somebody else moved it meanwhile.
-- KEYS[1]  the due list
-- ARGV[1]  the entry
-- ARGV[2]  the time it had; empty: whatever it is
-- ARGV[3]  the time it gets; empty: none, it is removed
-- Returns  1 where it was moved, else 0

if ARGV[2] ~= '' and redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
redis.call('ZADD', KEYS[1], 'XX', ARGV[3], ARGV[1])
return 1
