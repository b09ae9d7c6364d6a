import { Server } from '@tus/server'
import { FileStore } from '@tus/file-store'
import { S3Store } from '@tus/s3-store'

const [port, directory, maxSize, expirationPeriodInMilliseconds] = process.argv.slice(2)
const expiration = expirationPeriodInMilliseconds && {
  expirationPeriodInMilliseconds: Number(expirationPeriodInMilliseconds),
}
const { S3_ENDPOINT: endpoint, S3_BUCKET: bucket, AWS_DEFAULT_REGION: region } = process.env
const server = new Server({
  path: '/files',
  ...(maxSize && { maxSize: Number(maxSize) }),
  datastore: endpoint
    ? new S3Store({ s3ClientConfig: { bucket, endpoint, region, forcePathStyle: true }, ...expiration })
    : new FileStore({ directory, ...expiration }),
})
server.listen({ host: '127.0.0.1', port: Number(port) })
