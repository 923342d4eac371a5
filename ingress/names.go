package ingress

// routeProtocol tells the routes made here from all others ("proto 84" in ip
// route); fabric, which removes those of its own that no host needs, has 83.
const routeProtocol = 84
