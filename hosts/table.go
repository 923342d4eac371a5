package hosts

import (
	"fmt"
	"strings"
)

// The columns of the table: what of host a somebody may want to reach.
const (
	unpublished = "a container of the mesh that is no task"
	aTask       = "a task's own address, any port"
	published   = "a published port"
	aVIP        = "a VIP"
	dns         = "the DNS server"
	members     = "the agent's ports for members (7946, 2379, 2380)"
	joining     = "the agent's port for joining (7947)"
	sandbox     = "the sandbox of published ports"
)

// columns are in the order of the page.
var columns = []string{unpublished, aTask, published, aVIP, dns, members, joining, sandbox}

// The rows of the table: who may want to.
const (
	aNeighbour     = "a neighbour on the link"
	onMesh         = "a container on the mesh"
	onBridge       = "a container on another bridge"
	anotherHost    = "another host"
	othersOnMesh   = "another host's container on the mesh"
	othersOnBridge = "another host's container on another bridge"
	aStranger      = "a stranger on the link who sends as one of those"
)

// row is what somebody may reach.
type row struct {
	who string
	may map[string]verdict
}

// table is who may reach what.
var table = []row{
	// A host that joins is a neighbour until it has joined; a lone one listens while there is a token.
	{aNeighbour, map[string]verdict{unpublished: closed, aTask: closed, published: open, aVIP: closed, dns: closed, members: closed, joining: either, sandbox: closed}},
	// The mesh is a network: its containers reach each other.
	{onMesh, map[string]verdict{unpublished: open, aTask: open, published: open, aVIP: open, dns: open, members: closed, joining: closed, sandbox: closed}},
	{onBridge, map[string]verdict{unpublished: closed, aTask: open, published: open, aVIP: open, dns: open, members: closed, joining: closed, sandbox: closed}},
	// Its VIPs, its DNS server and its sandbox are its own.
	{anotherHost, map[string]verdict{unpublished: closed, aTask: open, published: open, aVIP: open, dns: open, members: open, joining: open, sandbox: either}},
	{othersOnMesh, map[string]verdict{unpublished: open, aTask: open, published: open, aVIP: open, dns: open, members: closed, joining: closed, sandbox: closed}},
	{othersOnBridge, map[string]verdict{unpublished: closed, aTask: open, published: open, aVIP: open, dns: open, members: closed, joining: closed, sandbox: closed}},
}

// forgery is what a stranger with a forged source may reach. He sees no answers: what gets through to whom is seen on the host.
var forgery = row{aStranger, map[string]verdict{unpublished: closed, aTask: closed, published: either, aVIP: closed, dns: closed, members: closed, joining: either, sandbox: closed}}

// tableMarkdown is the table as part of a page.
func tableMarkdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, r := range append(table[:len(table):len(table)], forgery) {
		fmt.Fprintf(&b, "| %s |", r.who)
		for _, column := range columns {
			cell := string(r.may[column])
			if r.may[column] == either {
				cell = "-"
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
