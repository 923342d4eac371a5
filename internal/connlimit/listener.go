package connlimit

import "net"

// Listener returns a listener that closes the connections for which there is no place, as
// soon as they are there. The others keep their places until they are closed.
func Listener(l net.Listener, p *Places) net.Listener { return &listener{l, p} }

type listener struct {
	net.Listener
	places *Places
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if release, ok := l.places.Acquire(Remote(c.RemoteAddr().String())); ok {
			return &conn{c, release}, nil
		}
		c.Close()
	}
}

type conn struct {
	net.Conn
	release func()
}

func (c *conn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
