-- Marks the row of a dead incarnation, so that one event says that the device is offline, whoever asks.
--
-- KEYS[1] tg:{tenant/device}:own
-- ARGV[1] node
-- ARGV[2] incarnation
--
-- Returns {epoch, connection, boot, max}, also where it was marked before; false where the row is not that incarnation's.
local row = redis.call('HMGET', KEYS[1], 'node', 'incarnation', 'epoch', 'connection', 'boot', 'max')
if row[1] ~= ARGV[1] or row[2] ~= ARGV[2] then
  return false
end
redis.call('HSET', KEYS[1], 'settled', '1')
return {row[3], row[4], row[5], row[6]}
