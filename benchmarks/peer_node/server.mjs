import { Server } from '@tus/server'
import { FileStore } from '@tus/file-store'

const [port, directory, maxSize, expirationPeriodInMilliseconds] = process.argv.slice(2)
const server = new Server({
  path: '/files',
  ...(maxSize && { maxSize: Number(maxSize) }),
  datastore: new FileStore({
    directory,
    ...(expirationPeriodInMilliseconds && {
      expirationPeriodInMilliseconds: Number(expirationPeriodInMilliseconds),
    }),
  }),
})
server.listen({ host: '127.0.0.1', port: Number(port) })
