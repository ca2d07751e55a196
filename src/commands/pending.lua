-- What the connection of an epoch has to send, in queue order; or all that have not ended.
-- KEYS[1]  the device's queue
-- KEYS[2]  what the keys of the device's commands begin with
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the epoch; empty: all that have not ended
-- ARGV[3]  at most so many
-- Returns  their ids

return waiting(KEYS[1], KEYS[2], ARGV[2], tonumber(ARGV[3]))
