-- Writes a row again that Redis may have lost, unless a newer one stands there.
--
-- KEYS[1] tg:{tenant/device}:own
-- KEYS[2] tg:{tenant/device}:last
-- KEYS[3] tg:{tenant/device}:q
-- ARGV[1] node
-- ARGV[2] incarnation
-- ARGV[3] epoch
-- ARGV[4] connection
-- ARGV[5] boot
-- ARGV[6] the largest message the connection can take, in bytes, or empty
--
-- Returns {"kept"}, {"settled"} (this epoch or a later one ended already, and the device may have been said to be offline
-- with it: claim anew),
-- {"written", commands waiting} (it was missing or older), or
-- {"newer", {node, incarnation, epoch, connection, boot, settled, max}}; a row of the same epoch that is another's is newer.
local ended = redis.call('HGET', KEYS[2], 'epoch')
ended = ended and tonumber(ended) >= tonumber(ARGV[3])
local row = redis.call('HMGET', KEYS[1], 'node', 'incarnation', 'epoch', 'connection', 'boot', 'settled', 'max')
if row[3] then
  local stored, mine = tonumber(row[3]), tonumber(ARGV[3])
  local is_mine = row[1] == ARGV[1] and row[2] == ARGV[2]
  if stored > mine or (stored == mine and not is_mine) then
    return {'newer', {row[1], row[2], row[3], row[4], row[5], row[6], row[7]}}
  end
  if stored == mine then
    if row[6] or ended then
      return {'settled'}
    end
    return {'kept'}
  end
end
if ended then
  return {'settled'}
end
redis.call('HSET', KEYS[1], 'node', ARGV[1], 'incarnation', ARGV[2], 'epoch', ARGV[3], 'connection', ARGV[4],
  'boot', ARGV[5])
if row[6] then
  redis.call('HDEL', KEYS[1], 'settled')
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'max', ARGV[6])
elseif row[7] then
  redis.call('HDEL', KEYS[1], 'max')
end
return {'written', redis.call('XLEN', KEYS[3])}
