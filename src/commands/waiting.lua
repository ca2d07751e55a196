-- Stands in front of what looks through a device's queue.
--
-- The first `most` ids of the queue, in its order: those the connection of an epoch has to send, `stem` being what the keys of
-- the device's commands begin with; without an epoch all that have not ended.
local function waiting(queue, stem, epoch, most)
  local ids = {}
  for _, entry in ipairs(redis.call('XRANGE', queue, '-', '+')) do
    if #ids >= most then
      break
    end
    local id = entry[2][2]
    local command = redis.call('HMGET', stem .. id, 'state', 'epoch', 'deadline')
    if not command[1] then
      -- Its command is gone, which only somebody else's hand can have done: the queue must not fill up with such.
      leave(queue, entry[1])
    elseif epoch == '' or (command[2] ~= epoch and now < tonumber(command[3])) then
      ids[#ids + 1] = id
    end
  end
  return ids
end

