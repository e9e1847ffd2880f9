"""The live dashboard: records -> snapshots -> pages in a browser. It reads records and writes none.

server     the Dash application, put together
access     who may ask: token, host, origin; the headers of every answer
library    the studies of a storage, read again when they grow
view       what a page shows, as the query of its URL
pages/     one module a page: its layout and its callbacks
downloads  files, policies, manifests and CSV by link
"""
