// Uploads one file with tus-js-client and prints one JSON object per line: every answer of the server, and at
// the end the URL of the upload. The only argument is a JSON object:
//
//   file, endpoint   what to send, and where uploads are created
//   asStream         send the file as a stream whose length nobody knows before its end
//   urlStorage       a file that remembers upload URLs, so that the next run resumes where this one was killed
//   bytesPerSecond   how fast to send, per connection
//
// and any other option of tus-js-client.
import { createReadStream } from 'node:fs'
import { PassThrough, Readable, Transform } from 'node:stream'
import * as tus from 'tus-js-client'

const { file, asStream, urlStorage, bytesPerSecond, ...options } = JSON.parse(process.argv[2])

// Standard output is a file here, so each line is written before the next statement runs: a killed client
// has reported every answer it received.
const report = (event) => process.stdout.write(`${JSON.stringify(event)}\n`)

function paced(body) {
  const pace = new Transform({
    transform(chunk, _encoding, done) {
      setTimeout(done, (1000 * chunk.length) / bytesPerSecond, null, chunk)
    },
  })
  pace.size = body.size // tus-js-client takes Content-Length from it
  return body.pipe(pace)
}

class PacedHttpStack extends tus.DefaultHttpStack {
  createRequest(method, url) {
    const request = super.createRequest(method, url)
    const send = request.send.bind(request)
    request.send = (body) => send(body instanceof Readable ? paced(body) : body)
    return request
  }
}

if (bytesPerSecond) options.httpStack = new PacedHttpStack()
if (urlStorage) options.urlStorage = new tus.FileUrlStorage(urlStorage)

const source = asStream ? createReadStream(file).pipe(new PassThrough()) : createReadStream(file)

const upload = new tus.Upload(source, {
  ...options,
  onAfterResponse(request, response) {
    const location = response.getHeader('Location')
    const offset = response.getHeader('Upload-Offset')
    report({
      method: request.getMethod(),
      override: request.getHeader('X-HTTP-Method-Override'),
      concat: request.getHeader('Upload-Concat'),
      status: response.getStatus(),
      url: location ? new URL(location, request.getURL()).href : request.getURL(),
      offset: offset === undefined ? undefined : Number(offset),
    })
  },
  onError(error) {
    process.stderr.write(`${error}\n`)
    process.exitCode = 1
  },
  onSuccess() {
    report({ finished: upload.url })
  },
})

const [previous] = await upload.findPreviousUploads()
if (previous) upload.resumeFromPreviousUpload(previous)
upload.start()
