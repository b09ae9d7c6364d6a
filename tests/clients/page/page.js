// The page that the browser tests open: a file input whose file is uploaded with Uppy to the ?endpoint=.
import Uppy from '@uppy/core'
import Tus from '@uppy/tus'

const endpoint = new URLSearchParams(location.search).get('endpoint')
// Chromium lets a request that is under way finish when it goes offline: it is the next chunk that fails.
const chunkSize = 4 * 2 ** 20
const uppy = new Uppy().use(Tus, { endpoint, chunkSize })
window.uppy = uppy

document.querySelector('input').addEventListener('change', ({ target }) => {
  for (const file of target.files) uppy.addFile({ name: file.name, type: file.type, data: file })
})
