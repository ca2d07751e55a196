-- Notes that the event of a command's end is stored; from then on the command is kept for a while.
-- KEYS[1]  the command
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the version that is stored
-- ARGV[3]  how long the command is kept, in milliseconds
-- Returns  1 where this version is the command's end, else 0

local state, version, published = unpack(redis.call('HMGET', KEYS[1], 'state', 'version', 'published'))
if not state or not TERMINAL[state] or version ~= ARGV[2] then
  return 0
end
if not published then
  redis.call('HSET', KEYS[1], 'published', 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
