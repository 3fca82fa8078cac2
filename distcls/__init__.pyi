from distcls.api import Classifier as Classifier
from distcls.api import Run as Run
from distcls.api import load as load
from distcls.api import train as train
from distcls.inference.answers.prediction import Prediction as Prediction

__version__: str
