-- What is due, the oldest first. Nothing is taken away: each entry is moved when it was looked at.
-- KEYS[1]  the due list
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  at most so many
-- Returns  {now, entry, its time, entry, its time, ...}

local due = redis.call('ZRANGE', KEYS[1], '-inf', digits(now), 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
table.insert(due, 1, digits(now))
return due
