"""Data modules by the word a user types; dotted names, so that listing them imports nothing."""

DATA: dict[str, str] = {
    "digits": "stepsize.data.digits.Digits",
    "mnist1d": "stepsize.data.mnist1d.MNIST1D",
    "fashion_mnist": "stepsize.data.fashion_mnist.FashionMNIST",
    "cifar10": "stepsize.data.cifar10.CIFAR10",
    "text": "stepsize.data.text.Text",
}
