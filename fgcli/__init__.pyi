from fgcli.api import ForwardGradient as ForwardGradient

__version__: str
