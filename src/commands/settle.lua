-- Notes that the event of a command's end is stored; from then on the command is kept for a while.
-- KEYS[1]  the command
-- KEYS[2]  its due list, where one script may have keys of several slots; else the entry is taken out behind this
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the version that is stored
-- ARGV[3]  how long the command is kept, in milliseconds
-- ARGV[4]  its entry in the due list
-- Returns  1 where this version is the command's end, else 0

local state, version, published = unpack(redis.call('HMGET', KEYS[1], 'state', 'version', 'published'))
if not state or not TERMINAL[state] or version ~= ARGV[2] then
  return 0
end
if not published then
  redis.call('HSET', KEYS[1], 'published', 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
if KEYS[2] then
  redis.call('ZREM', KEYS[2], ARGV[4])
end
return 1
