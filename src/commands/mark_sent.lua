-- Allows a connection to write a command's frame, or not.
-- KEYS[1]  the device's row
-- KEYS[2]  the device's queue
-- KEYS[3]  the command
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the connection's epoch
-- ARGV[3]  1: it has written this command before
-- ARGV[4]  in milliseconds: an older command's entry in the due list may be far off
-- Returns  what `mark` does

return mark(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[3] == '1', ARGV[4])
