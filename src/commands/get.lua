-- One command as it is.
-- KEYS[1]  the command
-- Returns  the command; empty where there is none

return redis.call('HGETALL', KEYS[1])
