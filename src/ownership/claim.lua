-- Makes a connection the owner of its device, with an epoch above every earlier one.
--
-- KEYS[1] tg:{tenant/device}:own    HASH of the row
-- KEYS[2] tg:{tenant/device}:last   HASH left by the last close: its epoch, and hints
-- KEYS[3] tg:{tenant/device}:q      STREAM of commands that wait
-- ARGV[1] node
-- ARGV[2] incarnation
-- ARGV[3] connection
-- ARGV[4] boot
-- ARGV[5] an epoch below the one to be given
-- ARGV[6] how many takeovers from another boot a window has room for; 0: the holder is dead, do not count
-- ARGV[7] the window, in milliseconds
-- ARGV[8] the largest message the connection can take, in bytes, or empty
--
-- Returns {0, wait in milliseconds, node, incarnation} where the row was taken over too often, or
-- {1, epoch, previous row or false, hints or false, commands waiting}
-- with the row as {node, incarnation, epoch, connection, boot, settled, max} and hints as {boot, acked, at}.
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)
local row = redis.call('HMGET', KEYS[1], 'node', 'incarnation', 'epoch', 'connection', 'boot', 'settled',
  'since', 'takeovers', 'max')
local previous = false
if row[1] then
  previous = {row[1], row[2], row[3], row[4], row[5], row[6], row[9]}
end
local since, takeovers = tonumber(row[7] or '0'), tonumber(row[8] or '0')
if now_ms - since >= tonumber(ARGV[7]) then
  since, takeovers = 0, 0
end
local limit = tonumber(ARGV[6])
if previous and limit > 0 and not row[6] and row[5] ~= ARGV[4] then
  if takeovers >= limit then
    return {0, math.max(since + tonumber(ARGV[7]) - now_ms, 1), row[1], row[2]}
  end
  if takeovers == 0 then
    since = now_ms
  end
  takeovers = takeovers + 1
end
local last = redis.call('HMGET', KEYS[2], 'boot', 'acked', 'at', 'epoch')
local stored = math.max(tonumber(row[3] or '0'), tonumber(last[4] or '0'))
local epoch = string.format('%.0f', math.max(stored + 1, now_us, tonumber(ARGV[5]) + 1))
redis.call('HSET', KEYS[1], 'node', ARGV[1], 'incarnation', ARGV[2], 'epoch', epoch, 'connection', ARGV[3],
  'boot', ARGV[4])
if row[6] then
  redis.call('HDEL', KEYS[1], 'settled')
end
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[1], 'max', ARGV[8])
elseif row[9] then
  redis.call('HDEL', KEYS[1], 'max')
end
if takeovers > 0 then
  redis.call('HSET', KEYS[1], 'since', string.format('%.0f', since), 'takeovers', takeovers)
elseif row[7] then
  redis.call('HDEL', KEYS[1], 'since', 'takeovers')
end
local hints = false
if last[1] then
  hints = {last[1], last[2], last[3]}
end
return {1, epoch, previous, hints, redis.call('XLEN', KEYS[3])}
