"""An HTTP/1.1 server on ``asyncio.Protocol``: RFC 9110 and RFC 9112, for every API of ours.

``messages`` are requests and responses as values, ``head`` reads a request's head (llhttp),
``framing`` finds the end of its body, ``body`` streams it to the handler, ``connection`` is the
state machine between a socket and a handler, ``server`` makes and ends connections. Nothing here
knows whose API it serves.
"""
