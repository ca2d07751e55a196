-- Removes a row that is still the caller's, and leaves hints for the device's next connection.
--
-- KEYS[1] tg:{tenant/device}:own
-- KEYS[2] tg:{tenant/device}:last
-- ARGV[1] node
-- ARGV[2] incarnation
-- ARGV[3] what must be the same besides: "epoch" or "connection"
-- ARGV[4] its value
-- ARGV[5] boot, or empty: leave no hints
-- ARGV[6] the last seq that was acked, or empty
-- ARGV[7] how long the hints are kept, in seconds
--
-- Returns 1 where it was removed, 2 where the row is a newer one of the same incarnation, 0 where it is not its at all.
local row = redis.call('HMGET', KEYS[1], 'node', 'incarnation', ARGV[3])
if row[1] ~= ARGV[1] or row[2] ~= ARGV[2] then
  return 0
end
if row[3] ~= ARGV[4] then
  return 2
end
redis.call('DEL', KEYS[1])
if ARGV[5] ~= '' then
  local time = redis.call('TIME')
  local now_ms = math.floor((tonumber(time[1]) * 1000000 + tonumber(time[2])) / 1000)
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'boot', ARGV[5], 'acked', ARGV[6], 'at', string.format('%.0f', now_ms))
  redis.call('EXPIRE', KEYS[2], ARGV[7])
end
return 1
