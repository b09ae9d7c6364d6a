// Uploads one file with tus-js-client. Besides what every task has, one may have
//
//   packages     the folder whose node_modules has tus-js-client
//   asStream     whether the file is sent as a stream, whose length nobody knows before its end
//   interrupt    'resume' or 'terminate': the first PATCH is aborted when half its bytes are sent, and this follows
//
// and any other option of tus-js-client.
import { createReadStream, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { PassThrough, Transform } from 'node:stream'

const { packages, file, asStream, interrupt, ...options } = JSON.parse(readFileSync(0, 'utf8'))
const tus = createRequire(join(packages, 'index.js'))('tus-js-client')

// The bytes that were sent have so long to arrive before the abort, for no client can see them arrive.
const ARRIVAL_MILLISECONDS = 200

const tell = (event) => process.stdout.write(`${JSON.stringify(event)}\n`)
const fail = (error) => {
  process.stderr.write(`${String(error).replaceAll('\n', ' ')}\n`)
  process.exitCode = 1
}

async function abort() {
  await upload.abort(interrupt === 'terminate')
  tell({ [interrupt === 'terminate' ? 'terminated' : 'paused']: upload.url })
  if (interrupt === 'resume') upload.start()
}

// The first half of a body; then it stalls, and the upload is aborted.
function half(body) {
  let seen = 0
  const stalling = new Transform({
    transform(chunk, _encoding, done) {
      seen += chunk.length
      if (seen <= body.size / 2) done(null, chunk)
      else setTimeout(() => abort().catch(fail), ARRIVAL_MILLISECONDS)
    },
  })
  stalling.size = body.size // tus-js-client takes Content-Length from it
  return body.pipe(stalling)
}

class InterruptingHttpStack extends tus.DefaultHttpStack {
  isDone = false

  createRequest(method, url) {
    const request = super.createRequest(method, url)
    if (method !== 'PATCH' || this.isDone) return request
    this.isDone = true
    const send = request.send.bind(request)
    request.send = (body) => send(half(body))
    return request
  }
}

if (interrupt) options.httpStack = new InterruptingHttpStack()

const source = asStream ? createReadStream(file).pipe(new PassThrough()) : createReadStream(file)
const upload = new tus.Upload(source, {
  retryDelays: [0, 100, 500, 1000, 3000],
  ...options,
  onAfterResponse(request, response) {
    const location = response.getHeader('Location')
    if (location) tell({ created: new URL(location, request.getURL()).href })
  },
  onError: fail,
  onSuccess: () => tell({ finished: upload.url }),
})
upload.start()
