// The articles' server, in one file: `ws`, and on each message one record to Kafka, awaited, then the ack. Everything else
// is as the two libraries come.
//
//   node server.js ADDRESS BROKERS

'use strict'

const { WebSocketServer } = require('ws')
const { KafkaJS } = require('@confluentinc/kafka-javascript')

const TOPIC = 'node.telemetry'

async function main () {
  const [address, brokers] = process.argv.slice(2)
  const [host, port] = address.split(':')
  const kafka = new KafkaJS.Kafka({ kafkaJS: { brokers: [brokers], logLevel: KafkaJS.logLevel.ERROR } })
  const producer = kafka.producer()
  await producer.connect()
  const server = new WebSocketServer({ host, port: Number(port) })
  server.on('connection', socket => {
    socket.on('error', () => {})
    socket.on('message', async data => {
      try {
        const text = data.toString()
        const message = JSON.parse(text)
        await producer.send({ topic: TOPIC, messages: [{ key: message.device_id, value: text }] })
        socket.send(JSON.stringify({ type: 'ack', seq: message.seq }))
      } catch (error) {
        console.error(error)
      }
    })
  })
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
