// How much came on each connection: who sends through several processes must be seen to use them all.
package main

import (
	"net"
	"sync"
	"sync/atomic"
)

// counting is a listener whose connections count what is read from them.
type counting struct {
	net.Listener
	mu    sync.Mutex
	taken []*counted
}

func (c *counting) Accept() (net.Conn, error) {
	connection, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	one := &counted{Conn: connection}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, one)
	return one, nil
}

func (c *counting) bytes() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes := make([]int64, len(c.taken))
	for number, one := range c.taken {
		bytes[number] = one.read.Load()
	}
	return bytes
}

type counted struct {
	net.Conn
	read atomic.Int64
}

func (c *counted) Read(into []byte) (int, error) {
	count, err := c.Conn.Read(into)
	c.read.Add(int64(count))
	return count, err
}
